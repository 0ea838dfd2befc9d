//go:build !(linux && amd64)

package nodes

import "errors"

const clockCanBeSet = false

func setClock(string) error { return errors.ErrUnsupported }
