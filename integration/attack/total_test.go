package attack

import "testing"

// TestCount: the matrix has the documented size. It runs last: its
// file is the last by name.
func TestCount(t *testing.T) {
	if n := rows.Load(); n < 450 {
		t.Errorf("%d attempts, want 450 or more", n)
	} else {
		t.Logf("%d attempts held", n)
	}
}
