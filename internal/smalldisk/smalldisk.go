// Package smalldisk is a file system of a chosen size, for tests that fill one.
//
// Read smalldisk_linux.go. It is mounted nowhere, and reached through this process's
// descriptor of it: so it is gone with the process, however that ends. It imports
// nothing of ours.
package smalldisk
