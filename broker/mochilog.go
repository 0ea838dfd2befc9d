package broker

import (
	"context"
	"log/slog"
	"slices"
)

// quiet keeps what mochi logs in line with the rest: no packets, which hold
// payloads and passwords, and a client's mistakes are not the server's errors.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return q.Handler.Enabled(ctx, demote(l))
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	kept := slog.NewRecord(r.Time, demote(r.Level), r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		if !carriesPacket(a) {
			kept.AddAttrs(a)
		}
		return true
	})
	return q.Handler.Handle(ctx, kept)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quiet{q.Handler.WithAttrs(slices.DeleteFunc(slices.Clone(attrs), carriesPacket))}
}

func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }

func carriesPacket(a slog.Attr) bool { return a.Key == "packet" || a.Key == "pk" }

func demote(l slog.Level) slog.Level {
	if l < slog.LevelError {
		return min(l, slog.LevelDebug)
	}
	return l
}
