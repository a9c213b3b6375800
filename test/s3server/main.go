// Command s3server is a real S3-compatible server for the tests of internal/target: Versity's gateway over a folder.
//
// It is a module of its own, so that what the gateway needs never enters Strongroom's go.mod. It serves on a free port
// of the loopback address, says which on its first line, and ends when its standard input does: with the test.
//
//	s3server FOLDER ACCESS-KEY SECRET-KEY
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: s3server FOLDER ACCESS-KEY SECRET-KEY")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "s3server:", err)
		os.Exit(1)
	}
}

func run(folder, access, secret string) error {
	paths := map[string]string{}
	for _, name := range []string{"buckets", "metadata", "versions"} {
		paths[name] = filepath.Join(folder, name)
		if err := os.Mkdir(paths[name], 0o700); err != nil {
			return err
		}
	}
	// Metadata in files beside the objects: not every file system under a temporary folder has extended attributes.
	metadata, err := meta.NewSideCar(paths["metadata"])
	if err != nil {
		return err
	}
	backend, err := posix.New(paths["buckets"], metadata, posix.PosixOpts{SideCarDir: paths["metadata"], VersioningDir: paths["versions"], Concurrency: 64})
	if err != nil {
		return err
	}
	// The gateway cannot say which free port it got, so it gets a socket, and this process the port.
	socket := filepath.Join(folder, "s3.sock")
	failed := make(chan error, 1)
	go func() {
		failed <- embedgw.RunVersityGW(context.Background(), backend, &embedgw.Config{
			RootUserAccess: access, RootUserSecret: secret, Ports: []string{socket}, Region: "us-east-1",
			MaxConnections: 1000, MaxRequests: 1000, MultipartMaxParts: 10000, Quiet: true, KeepAlive: true,
		})
	}()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() { failed <- relay(listener, socket) }()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println("listening on", listener.Addr())
	return <-failed
}

// relay carries each connection to the gateway's socket.
func relay(listener net.Listener, socket string) error {
	for {
		client, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer func() { _ = client.Close() }()
			gateway, err := net.Dial("unix", socket)
			if err != nil {
				return // it is not there yet: the client tries again
			}
			defer func() { _ = gateway.Close() }()
			go func() {
				_, _ = io.Copy(gateway, client)
				_ = gateway.(*net.UnixConn).CloseWrite()
			}()
			_, _ = io.Copy(client, gateway)
		}()
	}
}
