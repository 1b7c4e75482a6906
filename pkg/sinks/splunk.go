package sinks

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	promconfig "github.com/prometheus/common/config"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Of its HTTP event collector Splunk documents format, codes and acknowledgement in
// https://help.splunk.com/en/splunk-enterprise/get-data-in/collect-http-event-data
// under format-events-for-http-event-collector, troubleshoot-http-event-collector and
// about-http-event-collector-indexer-acknowledgment.
const (
	hecEvents = "/services/collector/event"
	hecAcks   = "/services/collector/ack"
	hecHealth = "/services/collector/health"
	// hecChannel is the header that names who acknowledgements are for.
	hecChannel = "X-Splunk-Request-Channel"
)

// The codes of its answers that say more than their HTTP status.
const (
	hecInvalidFormat  = 6
	hecIncorrectIndex = 7
	hecChannelMissing = 10
	hecChannelInvalid = 11
	hecEventRequired  = 12
	hecEventBlank     = 13
	hecAckDisabled    = 14
	hecInvalidFields  = 15
	hecHealthNoToken  = 21
	hecHealthDisabled = 22
)

// An acknowledgement is asked for first after ackPause, and then ever less often.
const (
	ackPause    = 50 * time.Millisecond
	maxAckPause = 2 * time.Second
)

// splunk sends events to Splunk's HTTP event collector.
type splunk struct {
	*bulk
	events, acks, health *endpoint
	// before and behind are what stands around the parts of an event that differ.
	before, behind []byte
	// channel is that of this sink where indexers acknowledge, else "".
	channel string
}

func newSplunk(cfg config.Sink, opts Options) (Sink, error) {
	c := cfg.Splunk
	if !c.Token.IsSet() {
		return nil, errors.New("splunk: no token")
	}
	client := c.HTTPConfig.Client()
	client.Authorization = &promconfig.Authorization{Type: "Splunk", Credentials: promconfig.Secret(c.Token.Expose())}
	b, err := newBulk("splunk", c.URL, config.NewHTTPConfig(client), c.Compression, cfg, opts)
	if err != nil {
		return nil, fmt.Errorf("splunk: %w", err)
	}
	s := &splunk{bulk: b, events: b.below(hecEvents, ""), health: b.below(hecHealth, "")}
	s.header = newHeader(opts, "application/json")
	s.before = appendQuoted([]byte(`"source":"hmcnotifyd","sourcetype":`), c.Sourcetype)
	if c.Index != "" {
		s.before = appendQuoted(append(s.before, `,"index":`...), c.Index)
	}
	s.before = append(s.before, `,"fields":{`...)
	s.behind = []byte(`},"event":`)
	if c.Acknowledge {
		s.channel = newGUID()
		s.header[hecChannel] = []string{s.channel}
		s.acks = b.below(hecAcks, "channel="+s.channel)
	}
	return s, nil
}

// newGUID makes a random UUID (RFC 9562, version 4).
func newGUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// appendEvent appends one event as the collector takes it: some of it as fields that are indexed,
// all of it as the event.
func (s *splunk) appendEvent(dst []byte, r *event.Record) []byte {
	f := fieldsOf(r)
	dst = append(dst, '{')
	if at := f.at(); !at.IsZero() {
		// Seconds with a fraction.
		dst = strconv.AppendFloat(append(dst, `"time":`...), float64(at.UnixMilli())/1000, 'f', 3, 64)
		dst = append(dst, ',')
	}
	dst = appendQuoted(append(dst, `"host":`...), f.hmc)
	dst = append(append(dst, ','), s.before...)
	dst = appendQuoted(append(dst, `"id":`...), r.ID)
	for _, field := range [...]struct{ name, value string }{
		{`,"hmc":`, f.hmc},
		{`,"type":`, f.kind},
		{`,"severity":`, f.severity},
		{`,"class":`, f.class},
		{`,"name":`, f.name},
		{`,"cpc":`, f.cpc},
	} {
		if field.value != "" {
			dst = appendQuoted(append(dst, field.name...), field.value)
		}
	}
	// One level of texts is all that it indexes.
	for name, value := range event.Members(event.Member(r.JSON, "labels")) {
		if len(value) > 0 && value[0] == '"' {
			dst = appendQuoted(append(dst, ','), "label_"+string(name))
			dst = append(append(dst, ':'), value...)
		}
	}
	dst = append(append(dst, s.behind...), r.JSON...)
	return append(dst, '}', '\n')
}

// hecAnswer is what the collector answers.
type hecAnswer struct {
	Text string `json:"text"`
	Code *int   `json:"code"`
	// Invalid is the number of the first event that is not valid, from 0 on.
	Invalid *int `json:"invalid-event-number"`
	// Ack is what the acknowledgement of the request is asked for by.
	Ack *int64 `json:"ackId"`
}

// Send makes one request and, where indexers acknowledge, asks until it is acknowledged.
func (s *splunk) Send(ctx context.Context, records []event.Record) error {
	if len(records) == 0 {
		return nil
	}
	if len(records) > s.batch {
		return fmt.Errorf("%s: %d events in one request, at most %d", s.name, len(records), s.batch)
	}
	const envelope = 400 // about
	size := 0
	for i := range records {
		size += len(records[i].JSON) + envelope
	}
	body := make([]byte, 0, size)
	for i := range records {
		body = s.appendEvent(body, &records[i])
	}
	header := s.newHeader(1)
	body = s.encoded(header, body)
	late := noAnswer
	if s.channel != "" {
		late = noAcknowledgement
	}
	return s.cancelable(ctx, late, func(attempt context.Context, sp *span) error {
		var (
			said    hecAnswer
			cookies []*http.Cookie
		)
		req := s.events.request(attempt, header, body)
		err := s.events.exchange(req, sp.giveUp, func(a *httpAnswer) (err error) {
			said, err = s.judge(a, len(records))
			cookies = (&http.Response{Header: a.Header}).Cookies()
			if err == nil && s.channel != "" && said.Ack == nil {
				err = a.paused(a.Status, ReasonContent, a.Body, noAcknowledger)
			}
			return err
		})
		if err != nil || s.channel == "" {
			return err
		}
		return s.acknowledged(attempt, sp.giveUp, *said.Ack, cookies)
	})
}

// judge says what became of so many events.
func (s *splunk) judge(a *httpAnswer, events int) (said hecAnswer, err error) {
	code := -1
	if json.Unmarshal(a.Body, &said) == nil && said.Code != nil {
		code = *said.Code
	}
	err = a.judge(a.Status, a.Body)
	paused := func(reason Reason, help string) error { return a.paused(a.Status, reason, a.Body, help) }
	switch code {
	case hecInvalidFormat, hecEventRequired, hecEventBlank, hecInvalidFields:
		err = a.judge(http.StatusBadRequest, a.Body)
		if said.Invalid != nil && *said.Invalid >= 0 && *said.Invalid < events {
			err = s.divided(err, *said.Invalid, events)
		}
	case hecIncorrectIndex:
		err = paused(ReasonNotFound, "there is no such index, or the token may not write to it")
	case hecChannelMissing, hecChannelInvalid:
		err = paused(ReasonContent,
			"this token has indexer acknowledgement: set acknowledge: true, or disable it there")
	case hecAckDisabled:
		err = paused(ReasonContent, noAcknowledger)
	case hecHealthNoToken, hecHealthDisabled:
		err = paused(ReasonAuthorization, "the token is not accepted")
	case -1:
		switch {
		case err == nil:
			err = paused(ReasonNotFound, "what answers is no HTTP event collector")
		case a.cut && a.Status == http.StatusBadRequest:
			err = fmt.Errorf("status %d, and no whole answer", a.Status)
		}
	}
	return said, err
}

const noAcknowledger = "this token has no indexer acknowledgement: enable it there, or set acknowledge: false"

// divided says of each event what one that is not valid means: those before it were taken, those
// behind it were not looked at. That those before it are on disk nobody acknowledges.
func (s *splunk) divided(refused error, invalid, events int) error {
	each := make([]error, events)
	for i := range each {
		if i > invalid || i < invalid && s.channel != "" {
			each[i] = ErrNotJudged
		}
	}
	each[invalid] = refused
	return eventsError(each)
}

// acknowledged asks until the indexer has acknowledged a request. Once it has said so, it forgets
// it. cookies are those of the answer: a load balancer may tell by them which indexer that was.
func (s *splunk) acknowledged(
	attempt context.Context, cancel context.CancelFunc, ack int64, cookies []*http.Cookie,
) error {
	id := strconv.FormatInt(ack, 10)
	for pause := ackPause; ; pause = min(2*pause, maxAckPause) {
		select {
		case <-time.After(pause):
		case <-s.life.ctx.Done(): // no request can be made any more
			return ErrClosed
		case <-attempt.Done():
			return attempt.Err()
		}
		req := s.acks.request(attempt, s.newHeader(1), []byte(`{"acks":[`+id+`]}`))
		for _, c := range cookies {
			req.AddCookie(c)
		}
		done := false
		err := s.acks.exchange(req, cancel, func(a *httpAnswer) error {
			var said struct {
				Acks map[string]bool `json:"acks"`
			}
			if json.Unmarshal(a.Body, &said) == nil {
				done = said.Acks[id]
			}
			if said.Acks != nil {
				return nil
			}
			_, err := s.judge(a, 1)
			return err
		})
		if done {
			return nil
		}
		// What is not there for a moment knows of the request when it is there again.
		if _, paused := errors.AsType[*PausedError](err); paused {
			return err
		}
	}
}

// Probe asks whether the collector works and accepts the token.
func (s *splunk) Probe(ctx context.Context) error {
	return s.send(ctx, func(attempt context.Context) *http.Request {
		return s.health.get(attempt, s.newHeader(0))
	}, func(a *httpAnswer) error {
		_, err := s.judge(a, 1)
		return err
	})
}
