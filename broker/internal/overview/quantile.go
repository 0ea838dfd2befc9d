package overview

import (
	"math"

	dto "github.com/prometheus/client_model/go"
)

// bucket is one of a histogram: the observations of at most upper, cumulative.
type bucket struct{ upper, count float64 }

func buckets(h *dto.Histogram) []bucket {
	b := make([]bucket, 0, len(h.GetBucket())+1)
	for _, x := range h.GetBucket() {
		b = append(b, bucket{x.GetUpperBound(), float64(x.GetCumulativeCount())})
	}
	if len(b) == 0 || !math.IsInf(b[len(b)-1].upper, 1) {
		b = append(b, bucket{math.Inf(1), float64(h.GetSampleCount())})
	}
	return b
}

// add sums two histograms with the same bounds.
func add(a, b []bucket) []bucket {
	if a == nil {
		return b
	}
	for i := range a {
		a[i].count += b[i].count
	}
	return a
}

// quantile estimates the quantile q of the observations since before (nil: since the
// start), as Prometheus' histogram_quantile does: evenly spread within a bucket. nil:
// there are none.
func quantile(b, before []bucket, q float64) *float64 {
	count := func(i int) float64 {
		if i < 0 {
			return 0
		}
		if i < len(before) {
			return b[i].count - before[i].count
		}
		return b[i].count
	}
	if len(b) == 0 || count(len(b)-1) <= 0 {
		return nil
	}
	rank := q * count(len(b)-1)
	i := 0
	for i < len(b)-1 && count(i) < rank {
		i++
	}
	lower := 0.0
	if i > 0 {
		lower = b[i-1].upper
	}
	v := lower
	if in := count(i) - count(i-1); !math.IsInf(b[i].upper, 1) && in > 0 {
		v += (b[i].upper - lower) * (rank - count(i-1)) / in
	}
	return &v
}
