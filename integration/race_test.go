//go:build race

package integration

// raceFlag builds the binary as the tests themselves are built.
const raceFlag = "-race"
