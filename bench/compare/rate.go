package main

import (
	"context"
	"fmt"
)

func throughput(r *result) float64 { return r.Throughput }
func cpu(r *result) float64        { return r.Server.Each }

// work is the same for all: QoS 1 from publishers to single devices.
var work = []string{"--devices", "200", "--publishers", "8", "--inflight", "64", "--payload", "256"}

// rate is how fast each contestant is, as fast as it goes, and what that costs.
func (p *program) rate(ctx context.Context) error {
	all := append(append(append([]contestant{}, p.ours...), p.plain), p.beside...)
	for round := range p.rounds {
		for _, c := range all {
			r, err := p.once(ctx, c, append(work, "--duration", p.duration.String(), "--warmup", "1s")...)
			if err != nil {
				return err
			}
			p.top[c.name] = append(p.top[c.name], r)
			p.report.progress("round %d  %-34s %8.0f/s  p50 %7.2f ms  p99 %7.2f ms  server %6.1f µs  generator %5.1f µs  %s", round+1, c.name, r.Throughput, r.Delivery.P50, r.Delivery.P99, r.Server.Each, r.Generator.Each, faults([]*result{r}))
		}
	}
	t := table{head: []string{"broker", "messages/s", "p50", "p99", "server CPU a message", "rate ÷ plain mochi", "CPU ÷ plain mochi", "generator CPU a message", "faults"}}
	plain := p.top[p.plain.name]
	for _, c := range all {
		runs := p.top[c.name]
		t.add(c.name, fmt.Sprintf("%.0f", medianOf(runs, throughput)),
			ms(medianOf(runs, func(r *result) float64 { return r.Delivery.P50 })), ms(medianOf(runs, func(r *result) float64 { return r.Delivery.P99 })),
			fmt.Sprintf("%.1f µs", medianOf(runs, cpu)),
			fmt.Sprintf("%.2f", ratio(runs, plain, throughput)), fmt.Sprintf("%.2f", ratio(runs, plain, cpu)),
			fmt.Sprintf("%.1f µs", medianOf(runs, func(r *result) float64 { return r.Generator.Each })), faults(runs))
	}
	text := fmt.Sprintf("QoS 1 from 8 publishers with 64 in flight each to 200 devices, one device a message, 256 bytes, as fast as it goes; "+
		"medians of %d rounds of %s, the brokers in turn; ratios are medians of the ratios of a round. Latency is from sending to the device's reading, under that load.", p.rounds, p.duration)
	var aims []aim
	for _, c := range p.ours {
		aims = append(aims, aim{c.name + ": notifications/s ÷ plain mochi in memory", "1.1", "1.3", fmt.Sprintf("%.2f", ratio(p.top[c.name], plain, throughput))})
		if badger := p.top[badgerHook]; badger != nil {
			aims = append(aims, aim{c.name + ": notifications/s ÷ mochi with its badger hook", "5", "6", fmt.Sprintf("%.2f", ratio(p.top[c.name], badger, throughput))})
		}
		aims = append(aims, aim{c.name + ": server CPU a notification ÷ plain mochi", "0.7", "0.55", fmt.Sprintf("%.2f", ratio(p.top[c.name], plain, cpu))})
	}
	return p.report.section("rate", text, t, aims)
}

// once measures a contestant that has just been started.
func (p *program) once(ctx context.Context, c contestant, flags ...string) (*result, error) {
	s, err := c.start(ctx)
	if err != nil {
		return nil, err
	}
	r, err := p.load(ctx, s, flags...)
	if stopErr := s.stop(); err == nil {
		err = stopErr
	}
	return r, err
}
