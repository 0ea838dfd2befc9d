// Package child starts processes that do not outlive this one, and that a Ctrl-C in the
// terminal does not reach: this process ends them, in its own order.
package child
