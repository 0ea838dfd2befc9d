// Package web serves Heartline's web pages: the web terminal, a page that plays a
// device.
//
// The pages are TypeScript in src/, built by `make web` into dist/, which is
// embedded and not committed; in a program that was built without it, dist.html
// stands in and says so. What a browser gets loads nothing from elsewhere.
//
// Read web.go. The page itself begins in src/main.ts. The package starts no
// goroutine and imports nothing of Heartline.
package web
