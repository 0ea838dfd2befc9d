package webpushsim

import "github.com/heartline-mqtt/heartline/internal/simkit"

// Script is how a request that passes every check is treated; Scripts a list of them.
type (
	Script   = simkit.Script
	Scripts  = simkit.Scripts
	Duration = simkit.Duration // a time.Duration that JSON holds as text ("50ms")
)

// The actions of a Script.
const (
	ActionAnswer = simkit.ActionAnswer // with the script's status
	ActionHang   = simkit.ActionHang   // no answer, until the client gives up
	ActionDrop   = simkit.ActionDrop   // processed, and the connection is cut before the answer
	ActionReset  = simkit.ActionReset  // not processed, and the connection is cut

	ActionSilence = simkit.ActionSilence // not processed, and the connection goes dead without a word
)
