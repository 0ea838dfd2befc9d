package pebblestore

import (
	"fmt"
	"log/slog"
)

// logger hands Pebble's messages to slog. Routine messages go at debug, since Pebble
// reports every flush. Fatal messages end the store instead of the process.
type logger struct {
	log   *slog.Logger
	fatal func(error)
}

func (l logger) Infof(format string, args ...any) { l.log.Debug(fmt.Sprintf(format, args...)) }

// Errorf is for what Pebble goes on from by itself: a flush that it will try
// again, say. Store.background has logged what matters of it.
func (l logger) Errorf(format string, args ...any) { l.log.Debug(fmt.Sprintf(format, args...)) }

// Fatalf must not end the process, as Pebble's own logger does: the store fails,
// refuses further changes, and is reopened. Pebble goes on after it as
// if nothing had happened, so every caller has to look at Store.broken.
func (l logger) Fatalf(format string, args ...any) { l.fatal(fmt.Errorf(format, args...)) }
