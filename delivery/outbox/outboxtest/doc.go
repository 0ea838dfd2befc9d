// Package outboxtest is the conformance suite of outbox.Engine: what a store must
// do to be one.
//
//	func TestConformance(t *testing.T) {
//		outboxtest.Run(t, func(t *testing.T) outbox.Engine { … })
//	}
//
// A durable engine also runs RunDurable, whose function opens the same store each
// time it is called within a test. Read suite.go (one test a rule), durable.go,
// model.go (the whole of an engine's behaviour on a page, and a property test
// against it).
package outboxtest
