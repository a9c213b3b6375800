//go:build !linux

package durable

func renameNew(oldPath, newPath string) error { return linkNew(oldPath, newPath) }
