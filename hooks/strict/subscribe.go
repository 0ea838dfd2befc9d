package strict

// subscribe checks the body of a SUBSCRIBE.
func (s *stream) subscribe(b []byte) *rule {
	b, r := s.filters(b, subscribeProperties)
	if r != nil {
		return r
	}
	for len(b) > 0 {
		var filter []byte
		if filter, b = field(b); filter == nil || len(b) == 0 {
			// [MQTT-3.8.3-1]. Without its options byte mochi indexes past the end
			// of the packet, and the process ends.
			return &ruleTruncated
		}
		if r := topicFilter(filter, s.connect.version); r != nil {
			return r
		}
		options := b[0]
		b = b[1:]
		if s.connect.version < 5 {
			if options > 2 {
				return &ruleOptionBits // [MQTT-3-8.3-4] of 3.1.1
			}
			continue
		}
		switch {
		case options>>6 != 0:
			return &ruleOptionBits // [MQTT-3.8.3-5]
		case options&3 == 3:
			return &ruleSubscribeQoS // 3.8.3.1: protocol error
		case options>>4&3 == 3:
			return &ruleRetainHandling // 3.8.3.1: protocol error
		case options&4 != 0 && shared(filter):
			return &ruleShareNoLocal // [MQTT-3.8.3-4]
		}
	}
	return nil
}

// unsubscribe checks the body of an UNSUBSCRIBE.
func (s *stream) unsubscribe(b []byte) *rule {
	b, r := s.filters(b, unsubscribeProperties)
	if r != nil {
		return r
	}
	for len(b) > 0 {
		var filter []byte
		if filter, b = field(b); filter == nil {
			return &ruleTruncated // [MQTT-3.10.3-1]
		}
		if r := topicFilter(filter, s.connect.version); r != nil {
			return r
		}
	}
	return nil
}

// filters checks what stands before the filters, which it returns.
func (s *stream) filters(b []byte, allowed propertySet) ([]byte, *rule) {
	if len(b) < 2 {
		return nil, &ruleTruncated
	}
	if b[0]|b[1] == 0 {
		return nil, &rulePacketID // [MQTT-2.2.1-3]
	}
	b = b[2:]
	if s.connect.version == 5 {
		var p properties
		n, r := p.parse(b, allowed)
		if r != nil {
			return nil, r
		}
		b = b[n:]
	}
	if len(b) == 0 {
		return nil, &ruleNoFilters // [MQTT-3.8.3-2] [MQTT-3.10.3-2]
	}
	return b, nil
}
