// Package rlimit reads the limits that the operating system sets for the process.
package rlimit
