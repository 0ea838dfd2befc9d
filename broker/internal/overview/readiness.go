package overview

// Readiness is the state of each part of the program, as /readyz tells it.
type Readiness struct {
	Checks map[string]string // by part
	Faults []string          // the parts whose state needs an operator
	Err    error             // not nil while notifications are refused
}

// Add adds the state of a part.
func (r *Readiness) Add(part, state string) {
	if r.Checks == nil {
		r.Checks = map[string]string{}
	}
	r.Checks[part] = state
}

// Fault adds the state of a part that needs an operator.
func (r *Readiness) Fault(part, state string) {
	r.Add(part, state)
	r.Faults = append(r.Faults, part)
}
