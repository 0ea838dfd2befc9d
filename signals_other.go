//go:build !unix

package main

import "os"

// reloads delivers nothing: this system has no SIGHUP.
func reloads() <-chan os.Signal { return nil }
