package codec

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/heartline-mqtt/heartline/delivery"
)

const (
	notificationID protowire.Number = iota + 1
	notificationAccount
	notificationTitle
	notificationBody
	notificationBadge
	notificationSound
	notificationCategory
	notificationCollapseKey
	notificationAck
	notificationUrgency
	notificationFallback
	notificationHasMessage
	notificationAcceptedAt
	notificationExpiresAt
	notificationDevice
	notificationFingerprint // of format 1, not used any more
	notificationSubtitle
	notificationThread
	notificationLink
	notificationImage
	notificationLevel
	notificationLocalized
	notificationExtra
	notificationBadgeAuto
	notificationAckWindow
	notificationTTLZero
	notificationKind
	notificationPushType
	notificationOverlay
	notificationMark
	notificationNarrowed
	notificationHeld
	notificationAckGiven
	notificationTTLGiven
)

const (
	localizedTitleKey protowire.Number = iota + 1
	localizedTitleArg
	localizedSubtitleKey
	localizedSubtitleArg
	localizedBodyKey
	localizedBodyArg
)

const (
	overlayAPNs protowire.Number = iota + 1
	overlayFCM
	overlayWebPush
)

const (
	requestClient protowire.Number = iota + 1
	requestPacketID
	requestPayload
)

// AppendNotification appends a notification's value, without its Seq, which is its key.
func AppendNotification(b []byte, n *delivery.Notification) []byte {
	b = appendString(b, notificationID, n.ID)
	b = appendString(b, notificationAccount, n.Account)
	b = appendString(b, notificationTitle, n.Title)
	b = appendString(b, notificationBody, n.Body)
	if n.Badge != nil { // a badge of 0 clears the app's badge: it is not "none"
		b = protowire.AppendTag(b, notificationBadge, protowire.VarintType)
		b = protowire.AppendVarint(b, protowire.EncodeZigZag(int64(*n.Badge)))
	}
	b = appendString(b, notificationSound, n.Sound)
	b = appendString(b, notificationCategory, n.Category)
	b = appendString(b, notificationCollapseKey, n.CollapseKey)
	b = appendUint(b, notificationAck, uint64(n.Ack))
	b = appendUint(b, notificationUrgency, uint64(n.Urgency))
	b = appendBool(b, notificationFallback, n.Fallback)
	b = appendBool(b, notificationHasMessage, n.HasMessage)
	b = appendTime(b, notificationAcceptedAt, n.AcceptedAt)
	b = appendTime(b, notificationExpiresAt, n.ExpiresAt)
	for _, d := range n.Devices { // an empty one too: the list's length counts
		b = protowire.AppendString(protowire.AppendTag(b, notificationDevice, protowire.BytesType), d)
	}
	b = appendString(b, notificationSubtitle, n.Subtitle)
	b = appendString(b, notificationThread, n.Thread)
	b = appendString(b, notificationLink, n.Link)
	b = appendString(b, notificationImage, n.Image)
	b = appendUint(b, notificationLevel, uint64(n.Level))
	if n.Localized != nil {
		b = appendMessage(b, notificationLocalized, appendLocalized(nil, n.Localized))
	}
	b = appendBytes(b, notificationExtra, n.Extra)
	b = appendBool(b, notificationBadgeAuto, n.BadgeAuto)
	b = appendWindow(b, notificationAckWindow, n.AckWindow)
	b = appendBool(b, notificationTTLZero, n.TTLZero)
	b = appendString(b, notificationKind, n.Kind)
	b = appendString(b, notificationPushType, n.PushType)
	if o := n.Overlay; o != nil {
		s := appendBytes(nil, overlayAPNs, o.APNs)
		s = appendBytes(s, overlayFCM, o.FCM)
		s = appendBytes(s, overlayWebPush, o.WebPush)
		b = appendMessage(b, notificationOverlay, s)
	}
	if m := n.Mark; m != nil {
		s := appendString(nil, requestClient, m.Client)
		s = appendUint(s, requestPacketID, uint64(m.PacketID))
		if m.Payload != 0 {
			s = protowire.AppendTag(s, requestPayload, protowire.Fixed64Type)
			s = protowire.AppendFixed64(s, m.Payload)
		}
		b = appendMessage(b, notificationMark, s)
	}
	b = appendBool(b, notificationNarrowed, n.Narrowed)
	b = appendBool(b, notificationHeld, n.Held)
	b = appendBool(b, notificationAckGiven, n.AckGiven)
	return appendBool(b, notificationTTLGiven, n.TTLGiven)
}

func appendLocalized(b []byte, l *delivery.Localized) []byte {
	b = appendString(b, localizedTitleKey, l.TitleKey)
	b = appendList(b, localizedTitleArg, l.TitleArgs)
	b = appendString(b, localizedSubtitleKey, l.SubtitleKey)
	b = appendList(b, localizedSubtitleArg, l.SubtitleArgs)
	b = appendString(b, localizedBodyKey, l.BodyKey)
	return appendList(b, localizedBodyArg, l.BodyArgs)
}

func decodeLocalized(b []byte) (*delivery.Localized, error) {
	l := new(delivery.Localized)
	err := eachField(b, func(f field) error {
		switch f.num {
		case localizedTitleKey:
			l.TitleKey = string(f.s)
		case localizedTitleArg:
			l.TitleArgs = append(l.TitleArgs, string(f.s))
		case localizedSubtitleKey:
			l.SubtitleKey = string(f.s)
		case localizedSubtitleArg:
			l.SubtitleArgs = append(l.SubtitleArgs, string(f.s))
		case localizedBodyKey:
			l.BodyKey = string(f.s)
		case localizedBodyArg:
			l.BodyArgs = append(l.BodyArgs, string(f.s))
		}
		return nil
	})
	return l, err
}

func decodeOverlay(b []byte) (*delivery.Overlay, error) {
	o := new(delivery.Overlay)
	err := eachField(b, func(f field) error {
		switch f.num {
		case overlayAPNs:
			o.APNs = cloneBytes(f.s)
		case overlayFCM:
			o.FCM = cloneBytes(f.s)
		case overlayWebPush:
			o.WebPush = cloneBytes(f.s)
		}
		return nil
	})
	return o, err
}

func decodeRequest(b []byte) (*delivery.RequestMark, error) {
	m := new(delivery.RequestMark)
	err := eachField(b, func(f field) error {
		switch f.num {
		case requestClient:
			m.Client = string(f.s)
		case requestPacketID:
			m.PacketID = uint16(f.v)
		case requestPayload:
			m.Payload = f.v
		}
		return nil
	})
	return m, err
}

// DecodeNotification is the inverse of AppendNotification; it reuses n.Devices.
func DecodeNotification(n *delivery.Notification, seq delivery.Seq, b []byte) error {
	*n = delivery.Notification{Seq: seq, Devices: n.Devices[:0]}
	for len(b) > 0 {
		f, rest, err := nextField(b)
		if err != nil {
			return err
		}
		b = rest
		switch f.num {
		case notificationID:
			n.ID = string(f.s)
		case notificationAccount:
			n.Account = string(f.s)
		case notificationTitle:
			n.Title = string(f.s)
		case notificationBody:
			n.Body = string(f.s)
		case notificationBadge:
			badge := int(protowire.DecodeZigZag(f.v))
			n.Badge = &badge
		case notificationSound:
			n.Sound = string(f.s)
		case notificationCategory:
			n.Category = string(f.s)
		case notificationCollapseKey:
			n.CollapseKey = string(f.s)
		case notificationAck:
			n.Ack = delivery.AckKind(f.v)
		case notificationUrgency:
			n.Urgency = delivery.Urgency(f.v)
		case notificationFallback:
			n.Fallback = f.v != 0
		case notificationHasMessage:
			n.HasMessage = f.v != 0
		case notificationAcceptedAt:
			n.AcceptedAt = unixTime(f.v)
		case notificationExpiresAt:
			n.ExpiresAt = unixTime(f.v)
		case notificationDevice:
			n.Devices = append(n.Devices, string(f.s))
		case notificationSubtitle:
			n.Subtitle = string(f.s)
		case notificationThread:
			n.Thread = string(f.s)
		case notificationLink:
			n.Link = string(f.s)
		case notificationImage:
			n.Image = string(f.s)
		case notificationLevel:
			n.Level = delivery.Level(f.v)
		case notificationLocalized:
			n.Localized, err = decodeLocalized(f.s)
		case notificationExtra:
			n.Extra = cloneBytes(f.s)
		case notificationBadgeAuto:
			n.BadgeAuto = f.v != 0
		case notificationAckWindow:
			n.AckWindow = f.window()
		case notificationTTLZero:
			n.TTLZero = f.v != 0
		case notificationKind:
			n.Kind = string(f.s)
		case notificationPushType:
			n.PushType = string(f.s)
		case notificationOverlay:
			n.Overlay, err = decodeOverlay(f.s)
		case notificationMark:
			n.Mark, err = decodeRequest(f.s)
		case notificationNarrowed:
			n.Narrowed = f.v != 0
		case notificationHeld:
			n.Held = f.v != 0
		case notificationAckGiven:
			n.AckGiven = f.v != 0
		case notificationTTLGiven:
			n.TTLGiven = f.v != 0
		}
		if err != nil {
			return err
		}
	}
	return nil
}
