package cmd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWebPushKey: a key is made once, readable by its owner alone, and never overwritten.
func TestWebPushKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "webpush.pem")
	made := command(t, nil, "", "webpush-key", file)
	if made.code != exitOK || len(strings.TrimSpace(made.stdout)) != 87 {
		t.Fatalf("got %+v", made)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v; want mode 0600", info.Mode(), err)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	again := command(t, nil, "", "webpush-key", file)
	if after, err := os.ReadFile(file); again.code != exitFailure || !strings.Contains(again.stderr, "is not overwritten") || err != nil || string(after) != string(before) {
		t.Errorf("the key was overwritten: %+v, %v", again, err)
	}
	if shown := command(t, nil, "", "webpush-key", "--public", file); shown.code != exitOK || shown.stdout != made.stdout {
		t.Errorf("got %+v, want %q", shown, made.stdout)
	}
	printed := command(t, nil, "", "webpush-key")
	if err := os.WriteFile(file, []byte(printed.stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	if shown := command(t, nil, "", "webpush-key", "--public", file); printed.code != exitOK || shown.stdout != printed.stderr || shown.stdout == made.stdout {
		t.Errorf("without FILE: %+v, and its public half is %q", printed, shown.stdout)
	}
	for _, args := range [][]string{{"webpush-key", "--public"}, {"webpush-key", file, file}} {
		if got := command(t, nil, "", args...); got.code != exitUsage {
			t.Errorf("%v: %+v", args, got)
		}
	}
	if err := os.WriteFile(file, []byte("not-a-key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if bad := command(t, nil, "", "webpush-key", "--public", file); bad.code != exitFailure || strings.Contains(bad.stderr, "not-a-key") {
		t.Errorf("got %+v", bad)
	}
}
