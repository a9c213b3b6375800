// victim is the real server with one addition for crash tests: after SIGUSR1 it dies at the k-th durable step,
// as by kill -9, or shuts its file system off first, as by a power cut. It is built by the tests only.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"

	"strongroom/internal/cli"
	"strongroom/internal/durable"
	"strongroom/test/powercut"
)

func main() {
	step, _ := strconv.ParseInt(os.Getenv("VICTIM_STEP"), 10, 64)
	mount := os.Getenv("VICTIM_MOUNT") // set: shut this file system off before dying
	var armed atomic.Bool
	var count atomic.Int64
	durable.Hook = func(point string) {
		if !armed.Load() {
			return
		}
		n := count.Add(1)
		fmt.Printf("step %d %s\n", n, point)
		if n != step {
			return
		}
		if mount != "" {
			if err := powercut.Shutdown(mount); err != nil {
				fmt.Println("shutdown failed:", err)
			}
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	arm := make(chan os.Signal, 1)
	signal.Notify(arm, syscall.SIGUSR1)
	go func() {
		<-arm
		armed.Store(true)
		fmt.Println("armed")
	}()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
