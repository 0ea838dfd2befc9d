package main

import (
	"runtime"
	"strings"
	"testing"
)

// TestSiege is the siege with hundreds instead of thousands.
func TestSiege(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads memory from /proc")
	}
	var table strings.Builder
	err := siege(t.Context(), t.TempDir(), true, "", &table, t.Output())
	t.Log("\n" + table.String())
	if err != nil {
		t.Error(err)
	}
}
