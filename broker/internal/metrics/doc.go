// Package metrics counts every transition of a delivery and every HTTP request,
// and serves the counts to Prometheus.
//
// metrics.go is all of it. The package has no goroutine. It imports delivery.
package metrics
