package pebblestore_test

import "testing"

func acceptUnderLoad(t *testing.T, dir string) {}
