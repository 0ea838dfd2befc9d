package broker

// version is the one that CHANGELOG.md begins with.
const version = "0.1.0-dev"

// Version is Heartline's version, as in CHANGELOG.md. `heartline version` also
// prints the commit.
func Version() string { return version }
