package cmd

import "os"

// appSignals: Windows has none to spare; the keys are left.
func appSignals() (foreground, background os.Signal) { return nil, nil }
