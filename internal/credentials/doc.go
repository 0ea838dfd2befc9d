// Package credentials reads the credentials of notification servers from the files that
// their consoles and tools make, and names the usual mix-ups. The configuration checks
// them with it, and the senders use the result.
//
// serviceaccount.go is Google's, vapid.go and contact.go are Web Push's, webhook.go is that of
// Standard Webhooks. No error repeats
// a secret. The package imports nothing of Heartline.
package credentials
