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

	"golang.org/x/sys/unix"

	"strongroom/internal/cli"
	"strongroom/internal/durable"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "shutdown-file-system" { // for the tests: cut a disk off from outside
		if err := Shutdown(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
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
			if err := Shutdown(mount); err != nil {
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

// Shutdown makes the file system at a mount point refuse everything from now on, without flushing its journal:
// what was not synced is gone. ioctl EXT4_IOC_SHUTDOWN (linux/fs.h FS_IOC_SHUTDOWN), flag 2 = no log flush.
func Shutdown(mount string) error {
	dir, err := os.Open(mount)
	if err != nil {
		return err
	}
	const shutdown, noLogFlush = 0x8004587d, 2
	return unix.IoctlSetPointerInt(int(dir.Fd()), shutdown, noLogFlush)
}
