// Package web serves Heartline's web pages: the dashboard, and the web terminal, a page
// that plays a device.
//
// The pages are TypeScript in dashboard/ and src/. `make web` builds them into
// dist-dashboard/ and dist/, which are embedded and not committed. A program that was
// built without them serves dist-dashboard.html and dist.html, which say so. The pages
// load nothing from elsewhere.
//
// Read web.go. The pages begin in dashboard/main.ts and src/main.ts. The package starts
// no goroutine and imports nothing of Heartline.
package web
