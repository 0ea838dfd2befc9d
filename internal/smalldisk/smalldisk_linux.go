package smalldisk

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// New makes a tmpfs of size bytes, which takes root's rights and Linux 5.2. Other
// processes of the same user can use path, too, until free is called.
func New(size int) (path string, free func(), err error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", nil, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fs) //nolint:errcheck // nothing was written to it
	if err := errors.Join(unix.FsconfigSetString(fs, "size", strconv.Itoa(size)), unix.FsconfigCreate(fs)); err != nil {
		return "", nil, fmt.Errorf("fsconfig: %w", err)
	}
	root, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return "", nil, fmt.Errorf("fsmount: %w", err)
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), root), func() { _ = unix.Close(root) }, nil // nobody needs what is on it
}
