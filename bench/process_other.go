//go:build !linux

package bench

import "errors"

func processUsage(int) (usage, error) {
	return usage{}, errors.New("--server-pid: needs /proc, which only Linux has; leave it out")
}

func ownUsage() usage { return usage{} }
