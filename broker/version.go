package broker

// version is the next release; CHANGELOG.md has its changes.
const version = "0.1.0-dev"

// Version returns the version of Heartline that this program contains. `heartline
// version` also prints the commit.
func Version() string { return version }
