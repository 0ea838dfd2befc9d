//go:build unix

package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestLogReaderGone: a server outlives the reader of its log.
func TestLogReaderGone(t *testing.T) {
	const child = "TEST_LOG_READER_GONE"
	if os.Getenv(child) != "" {
		reloads()
		fmt.Fprintln(os.Stderr, "a line of the log")
		fmt.Println("still alive")
		return
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writer.Close() }()
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLogReaderGone$")
	cmd.Env = append(os.Environ(), child+"=1")
	cmd.Stderr = writer // the pipe itself
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), "still alive") {
		t.Errorf("got %q, %v", out, err)
	}
}
