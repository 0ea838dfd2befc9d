//go:build !linux

package smalldisk

import "errors"

// New is there on Linux only.
func New(int) (path string, free func(), err error) {
	return "", nil, errors.ErrUnsupported
}
