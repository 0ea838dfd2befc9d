// Package storetest is the conformance suite of store.Engine: what a store must
// do to be one.
//
//	func TestConformance(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) store.Engine { … })
//	}
//
// A durable engine also runs RunDurable, whose function opens the same store each
// time it is called within a test. Read suite.go (one test a rule; registry.go,
// ids.go, prune.go, events.go and erase.go likewise), durable.go,
// model.go (the whole of an engine's behaviour on a page, and a property test
// against it), two.go (it again for two engines on one store).
package storetest
