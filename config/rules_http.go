package config

// httpRules are those of http but for its address; see mqttRules.
func httpRules() []rule {
	type c = *Config
	always := func(c) bool { return true }
	return []rule{
		needed("http.tls.key_file", "where http.tls.cert_file is set", func(c c) bool { return c.HTTP.TLS.CertFile != "" }, func(c c) string { return c.HTTP.TLS.KeyFile }),
		needed("http.tls.cert_file", "where http.tls.key_file is set", func(c c) bool { return c.HTTP.TLS.KeyFile != "" }, func(c c) string { return c.HTTP.TLS.CertFile }),
		readable("http.tls.cert_file", always, func(c c) string { return c.HTTP.TLS.CertFile }),
		readable("http.tls.key_file", always, func(c c) string { return c.HTTP.TLS.KeyFile }),
		keyPair("http.tls.cert_file", "http.tls.key_file", always, func(c c) (string, string) { return c.HTTP.TLS.CertFile, c.HTTP.TLS.KeyFile }),
	}
}
