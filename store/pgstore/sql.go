package pgstore

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

// statements are all statements, with the schema in place. They use nothing that only
// one connection could: no session locks, no LISTEN.
type statements struct {
	format, own, noSync, insertIDs, insertNotes, insertOut, assignNote, assignOut                                                       string
	updateOut, insertEvents, insertFinals, count, finish, newDevices, claimTokens, lockDevices, putDevices                              string
	removeDevices, freeTokens, putDismissals, removeDismissals, contents, held, eraseOut, eraseNotes                                    string
	eraseEvents, eraseFinals, eraseIDs, journal, known, knownEvents, takenIDs, accountsOf                                               string
	notification, data, lookup, timeline, finals, records, listAll, listAccount                                                         string
	device, ofAccount, devices, owner, unfinished, dismissals, backlog, backlogDismissals, backlogAccounts, last                        string
	totals, eventsEnd, eventsEnds, commits, commitTime, events, newSession, newNumber, lockMeta, freeStream                             string
	makeStream, incarnation, join, joinFence, nodes, beat, lockDead, lockNode                                                           string
	audit, lastOfNode, parts, claimParts, giveUpParts, raiseParts, setLeaving, holdNode                                                 string
	removeNode, endFence, freeParts, trimTo, streams, trim, trimmed, prunable, stillOut, noteErased, erasedBefore, scrubbed, scrubAgain string
	daysLive, dayBusy, dayCount, dayIDs, scanState, putState, removeState, removeStates, removeLongStates, endHalves                    string
}

func newStatements(schema string) statements {
	quoted := pgx.Identifier{schema}.Sanitize()
	in := func(text string) string {
		return strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "{s}", quoted)
	}
	return statements{
		format:    in(`SELECT format FROM {s}.meta`),
		own:       in(`SELECT {s}.own($1, $2, $3)`),
		noSync:    in(`SELECT set_config('synchronous_commit', 'off', true)`),
		insertIDs: in(`INSERT INTO {s}.given_id (id, seq) SELECT u.id, u.seq FROM unnest($1::bytea[], $2::bigint[]) u (id, seq) ORDER BY u.id`),
		insertNotes: in(`
			INSERT INTO {s}.notification (seq, account, content, data)
			SELECT u.seq, u.account, u.content, u.data
			FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bytea[]) u (seq, account, content, data)`),
		insertOut: in(`
			INSERT INTO {s}.outstanding (part, device, seq, record)
			SELECT u.part, u.device, u.seq, u.record
			FROM unnest($1::smallint[], $2::bytea[], $3::bigint[], $4::bytea[]) u (part, device, seq, record)`),
		assignNote: in(`
			UPDATE {s}.notification n
			SET content = u.content
			FROM unnest($1::bigint[], $2::bytea[]) u (seq, content)
			WHERE n.seq = u.seq`),
		assignOut: in(`
			UPDATE {s}.outstanding o
			SET device = u.device
			FROM unnest($1::smallint[], $2::bigint[], $3::bytea[]) u (part, seq, device)
			WHERE o.part = u.part AND o.device = '' AND o.seq = u.seq`),
		updateOut: in(`
			UPDATE {s}.outstanding o
			SET record = u.record
			FROM unnest($1::smallint[], $2::bytea[], $3::bigint[], $4::bytea[]) u (part, device, seq, record)
			WHERE o.part = u.part AND o.device = u.device AND o.seq = u.seq`),
		insertEvents: in(`
			INSERT INTO {s}.event (seq, number, lines)
			SELECT u.seq, u.number, u.lines
			FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) u (seq, number, lines)
			WHERE EXISTS (SELECT 1 FROM {s}.notification n
			WHERE n.seq = u.seq)
			ON CONFLICT DO NOTHING`),
		insertFinals: in(`
			INSERT INTO {s}.final (seq, device, at, value)
			SELECT u.seq, u.device, u.at, u.value
			FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bytea[]) u (seq, device, at, value)`),
		count: in(`
			UPDATE {s}.fence
			SET accepted = accepted + $4, finished = finished + $5, last = greatest(last, $6)
			WHERE node = $1 AND lane = $2 AND session = $3`),
		finish: in(`
			WITH d AS (DELETE FROM {s}.outstanding o
			USING unnest($7::smallint[], $8::bytea[], $9::bigint[], $10::bigint[], $11::bytea[]) u (part, device, seq, at, value)
			WHERE o.part = u.part AND o.device = u.device AND o.seq = u.seq
			RETURNING o.seq, o.device, u.at, u.value),
			f AS (INSERT INTO {s}.final (seq, device, at, value) SELECT seq, device, at, value FROM d)
			UPDATE {s}.fence
			SET accepted = accepted + $4, finished = finished + $5 + (SELECT count(*) FROM d), last = greatest(last, $6)
			WHERE node = $1 AND lane = $2 AND session = $3`),
		newDevices: in(`
			INSERT INTO {s}.device (device, account, entry)
			SELECT u.device, u.account, u.entry FROM unnest($1::bytea[], $2::bytea[], $3::bytea[]) u (device, account, entry) ORDER BY u.device
			ON CONFLICT (device) DO NOTHING`),
		claimTokens: in(`
			INSERT INTO {s}.token AS t (hash, device)
			SELECT DISTINCT ON (u.hash) u.hash, u.device
			FROM unnest($1::bytea[], $2::bytea[], $3::bytea[]) WITH ORDINALITY u (hash, device, account, n)
			WHERE NOT EXISTS (SELECT 1 FROM {s}.device d
			WHERE d.device = u.device AND d.account <> u.account) ORDER BY u.hash, u.n DESC
			ON CONFLICT (hash) DO UPDATE
			SET former = t.device, device = excluded.device`),
		lockDevices: in(`
			SELECT d.device, d.account, d.entry FROM {s}.device d
			WHERE d.device = ANY($1::bytea[] || ARRAY(SELECT t.former FROM {s}.token t
			WHERE t.hash = ANY($2::bytea[]))) ORDER BY d.device FOR UPDATE`),
		putDevices: in(`
			INSERT INTO {s}.device (device, account, entry)
			SELECT u.device, u.account, u.entry FROM unnest($1::bytea[], $2::bytea[], $3::bytea[]) u (device, account, entry) ORDER BY u.device
			ON CONFLICT (device) DO UPDATE
			SET account = excluded.account, entry = excluded.entry`),
		removeDevices: in(`DELETE FROM {s}.device WHERE device = ANY($1::bytea[])`),
		freeTokens:    in(`DELETE FROM {s}.token WHERE device = ANY($1::bytea[]) AND hash <> ALL ($2::bytea[])`),
		putDismissals: in(`
			INSERT INTO {s}.dismissal (part, device, seq, value)
			SELECT u.part, u.device, u.seq, u.value
			FROM unnest($1::smallint[], $2::bytea[], $3::bigint[], $4::bytea[]) u (part, device, seq, value)
			ON CONFLICT (part, device, seq) DO UPDATE
			SET value = excluded.value`),
		removeDismissals: in(`
			DELETE FROM {s}.dismissal d
			USING unnest($1::smallint[], $2::bytea[], $3::bigint[]) u (part, device, seq)
			WHERE d.part = u.part AND d.device = u.device AND d.seq = u.seq`),
		contents: in(`SELECT seq, content FROM {s}.notification WHERE seq = ANY($1::bigint[])`),
		held: in(`
			SELECT o.seq FROM {s}.outstanding o, unnest($1::smallint[], $2::bigint[]) u (part, seq)
			WHERE o.part = u.part AND o.device = '' AND o.seq = u.seq`),
		eraseOut: in(`
			WITH d AS (DELETE FROM {s}.outstanding o
			USING unnest($4::smallint[], $5::bytea[], $6::bigint[]) u (part, device, seq)
			WHERE o.part = u.part AND o.device = u.device AND o.seq = u.seq
			RETURNING 1)
			UPDATE {s}.fence
			SET finished = finished + (SELECT count(*) FROM d)
			WHERE node = $1 AND lane = $2 AND session = $3`),
		eraseNotes:  in(`DELETE FROM {s}.notification WHERE seq = ANY($1::bigint[])`),
		eraseEvents: in(`DELETE FROM {s}.event WHERE seq = ANY($1::bigint[])`),
		eraseFinals: in(`DELETE FROM {s}.final WHERE seq = ANY($1::bigint[])`),
		eraseIDs: in(`
			DELETE FROM {s}.given_id g
			USING unnest($1::bytea[], $2::bigint[]) u (id, seq)
			WHERE g.id = u.id AND g.seq = u.seq`),
		journal:     in(`INSERT INTO {s}.journal (stream, number, at, refs) VALUES ($1, $2, $3, $4)`),
		known:       in(`SELECT seq FROM {s}.notification WHERE seq = ANY($1::bigint[])`),
		knownEvents: in(`SELECT seq, lines FROM {s}.event WHERE seq = ANY($1::bigint[])`),
		takenIDs: in(`
			SELECT g.id, g.seq, EXISTS (SELECT 1 FROM {s}.notification n
			WHERE n.seq = g.seq) FROM {s}.given_id g
			WHERE g.id = ANY($1::bytea[])`),
		accountsOf:   in(`SELECT seq, account FROM {s}.notification WHERE seq = ANY($1::bigint[])`),
		notification: in(`SELECT content FROM {s}.notification WHERE seq = $1`),
		data:         in(`SELECT data FROM {s}.notification WHERE seq = $1 AND data IS NOT NULL`),
		lookup: in(`
			SELECT g.seq FROM {s}.given_id g
			WHERE g.id = $1 AND EXISTS (SELECT 1 FROM {s}.notification n
			WHERE n.seq = g.seq)`),
		timeline: in(`
			SELECT e.lines FROM {s}.notification n LEFT JOIN {s}.event e ON e.seq = n.seq AND e.seq = $1
			WHERE n.seq = $1 ORDER BY e.number`),
		finals:            in(`SELECT device, value FROM {s}.final WHERE seq = $1`),
		records:           in(`SELECT device, record FROM {s}.outstanding WHERE part = $1 AND device = ANY($2::bytea[]) AND seq = $3`),
		listAll:           in(`SELECT seq, content FROM {s}.notification WHERE seq < $1 ORDER BY seq DESC LIMIT $2`),
		listAccount:       in(`SELECT seq, content FROM {s}.notification WHERE account = $3 AND seq < $1 ORDER BY seq DESC LIMIT $2`),
		device:            in(`SELECT entry FROM {s}.device WHERE device = $1`),
		ofAccount:         in(`SELECT device, entry FROM {s}.device WHERE account = $1 ORDER BY device`),
		devices:           in(`SELECT device, entry FROM {s}.device WHERE device > $1 ORDER BY device LIMIT $2`),
		owner:             in(`SELECT device FROM {s}.token WHERE hash = $1`),
		unfinished:        in(`SELECT device, seq, record FROM {s}.outstanding WHERE $1 <= 1 OR seq % $1 = $2 ORDER BY device, seq`),
		backlog:           in(`SELECT part, device, seq, record FROM {s}.outstanding WHERE part = ANY($1::smallint[])`),
		backlogDismissals: in(`SELECT part, device, seq, value FROM {s}.dismissal WHERE part = ANY($1::smallint[])`),
		backlogAccounts: in(`
			SELECT d.device, d.entry FROM {s}.device d
			WHERE d.account IN (SELECT a.account FROM {s}.device a
			WHERE a.device = ANY($1::bytea[]))`),
		dismissals: in(`SELECT device, seq, value FROM {s}.dismissal WHERE $1 <= 1 OR seq % $1 = $2 ORDER BY device, seq`),
		last:       in(`SELECT greatest(m.last, (SELECT coalesce(max(last), 0) FROM {s}.fence)) FROM {s}.meta m`),
		totals: in(`
			SELECT m.accepted + f.accepted, m.finished + f.finished FROM {s}.meta m,
			(SELECT coalesce(sum(accepted), 0)::bigint AS accepted, coalesce(sum(finished), 0)::bigint AS finished FROM {s}.fence) f`),
		audit: in(`
			SELECT m.accepted + f.accepted, m.finished + f.finished, (SELECT count(*) FROM {s}.outstanding) FROM {s}.meta m,
			(SELECT coalesce(sum(accepted), 0)::bigint AS accepted, coalesce(sum(finished), 0)::bigint AS finished FROM {s}.fence) f`),
		eventsEnd: in(`
			SELECT greatest(s.number,
			(SELECT coalesce(max(j.number), 0) FROM {s}.journal j
			WHERE j.stream = s.stream)) FROM {s}.stream s
			WHERE s.stream = $1`),
		eventsEnds: in(`
			SELECT s.stream, greatest(s.number,
			(SELECT coalesce(max(j.number), 0) FROM {s}.journal j
			WHERE j.stream = s.stream)) FROM {s}.stream s ORDER BY s.stream`),
		commits:    in(`SELECT number, refs FROM {s}.journal WHERE stream = $1 AND number >= $2 ORDER BY number LIMIT $3`),
		commitTime: in(`SELECT number, at FROM {s}.journal WHERE stream = $1 AND number >= $2 ORDER BY number LIMIT 1`),
		events: in(`
			SELECT e.seq, e.lines FROM {s}.event e JOIN unnest($1::bigint[], $2::bigint[]) u (seq, number) ON e.seq = u.seq AND e.number = u.number`),
		newSession: in(`UPDATE {s}.fence SET session = session + 1 WHERE node = $1 RETURNING lane, session`),
		newNumber: in(`
			UPDATE {s}.stream s
			SET number = greatest(s.number,
			(SELECT coalesce(max(j.number), 0) FROM {s}.journal j
			WHERE j.stream = s.stream)) + $2
			WHERE s.stream = $1
			RETURNING s.number`),
		lockMeta: in(`SELECT min_version, parts FROM {s}.meta FOR UPDATE`),
		freeStream: in(`
			SELECT coalesce((SELECT min(s.stream) FROM {s}.stream s
			WHERE NOT EXISTS (SELECT 1 FROM {s}.node n
			WHERE n.stream = s.stream)),
			(SELECT max(stream) + 1 FROM {s}.stream))`),
		makeStream:  in(`INSERT INTO {s}.stream (stream) VALUES ($1) ON CONFLICT DO NOTHING`),
		incarnation: in(`SELECT nextval('{s}.incarnation')`),
		join: in(`
			INSERT INTO {s}.node (node, name, address, version, stream, expires)
			VALUES ($1, $2, $3, $4, $5, clock_timestamp() + $6)`),
		joinFence:  in(`INSERT INTO {s}.fence (node, lane) VALUES ($1, $2)`),
		nodes:      in(`SELECT node, name, address, version, stream, leaving, expires, clock_timestamp() FROM {s}.node ORDER BY node`),
		beat:       in(`UPDATE {s}.node SET expires = clock_timestamp() + $2 WHERE node = $1 RETURNING clock_timestamp()`),
		lockDead:   in(`SELECT 1 FROM {s}.node WHERE node = $1 AND expires = $2 FOR UPDATE`),
		lockNode:   in(`SELECT 1 FROM {s}.node WHERE node = $1 FOR UPDATE`),
		removeNode: in(`DELETE FROM {s}.node WHERE node = $1`),
		endFence: in(`
			WITH
			f AS (DELETE FROM {s}.fence
			WHERE node = $1
			RETURNING accepted, finished, last)
			UPDATE {s}.meta
			SET accepted = meta.accepted + s.a, finished = meta.finished + s.f, last = greatest(meta.last, s.l)
			FROM (SELECT coalesce(sum(accepted), 0)::bigint AS a, coalesce(sum(finished), 0)::bigint AS f, coalesce(max(last), 0) AS l FROM f) s`),
		// A session that waits for its client has sent a part of a write, if it holds the row of
		// the fence: xmax of the row is its transaction.
		endHalves: in(`
			SELECT pg_terminate_backend(a.pid) FROM {s}.fence f
			JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = f.xmax
			JOIN pg_stat_activity a ON a.pid = l.pid
			WHERE f.node = $1 AND a.wait_event = 'ClientRead' AND a.pid <> pg_backend_pid() AND pg_has_role(a.usesysid, 'USAGE')`),
		lastOfNode: in(`SELECT coalesce(max(f.last), 0) FROM (SELECT last FROM {s}.fence WHERE node = $1 FOR UPDATE) f`),
		holdNode:   in(`SELECT 1 FROM {s}.node WHERE node = $1 FOR KEY SHARE`),
		setLeaving: in(`UPDATE {s}.node SET leaving = true WHERE node = $1`),
		parts:      in(`SELECT part, node, term, floor FROM {s}.part ORDER BY part`),
		claimParts: in(`
			UPDATE {s}.part
			SET node = $1, term = term + 1
			WHERE part IN (SELECT part FROM {s}.part WHERE node IS NULL ORDER BY part LIMIT $2 FOR UPDATE SKIP LOCKED)
			RETURNING part, node, term, floor`),
		giveUpParts: in(`
			UPDATE {s}.part p
			SET node = NULL, term = p.term + 1, floor = greatest(p.floor, u.floor)
			FROM unnest($2::smallint[], $3::bigint[], $4::bigint[]) u (part, floor, term)
			WHERE p.part = u.part AND p.node = $1 AND p.term = u.term`),
		raiseParts: in(`
			UPDATE {s}.part
			SET term = term + 1
			WHERE part = ANY($2::smallint[]) AND node = $1
			RETURNING part, node, term, floor`),
		freeParts: in(`UPDATE {s}.part SET node = NULL, term = term + 1, floor = greatest(floor, $2) WHERE node = $1`),
		trimTo: in(`
			SELECT coalesce((SELECT number - 1 FROM {s}.journal
			WHERE stream = $1 AND number > $2 AND at >= $3 ORDER BY number LIMIT 1),
			(SELECT max(number) FROM {s}.journal
			WHERE stream = $1 AND number > $2), 0)`),
		streams: in(`SELECT stream FROM {s}.stream ORDER BY stream`),
		trim:    in(`DELETE FROM {s}.journal WHERE stream = $1 AND number <= $2`),
		trimmed: in(`UPDATE {s}.stream SET number = greatest(number, $2) WHERE stream = $1`),
		prunable: in(`
			SELECT n.seq, n.content FROM {s}.notification n
			WHERE n.seq >= $1 AND n.seq < $2
			AND NOT EXISTS (SELECT 1 FROM {s}.final f
			WHERE f.seq = n.seq AND f.at >= $3) ORDER BY n.seq LIMIT $4`),
		stillOut: in(`
			SELECT DISTINCT o.seq FROM {s}.outstanding o, unnest($1::smallint[], $2::bytea[], $3::bigint[]) u (part, device, seq)
			WHERE o.part = u.part AND o.device = u.device AND o.seq = u.seq`),
		noteErased: in(`
			INSERT INTO {s}.erased (day, since, latest)
			SELECT day, clock_timestamp(), clock_timestamp() FROM unnest($1::bigint[]) day
			ON CONFLICT (day) DO UPDATE SET latest = excluded.latest`),
		erasedBefore: in(`SELECT clock_timestamp(), array(SELECT day FROM {s}.erased WHERE since < $1 ORDER BY day)`),
		scrubbed:     in(`DELETE FROM {s}.erased WHERE day = ANY($1::bigint[]) AND latest < $2`),
		scrubAgain:   in(`UPDATE {s}.erased SET since = latest WHERE day = ANY($1::bigint[])`),
		daysLive:     in(`SELECT DISTINCT seq / $1::bigint FROM {s}.outstanding`),
		dayBusy:      in(`SELECT EXISTS (SELECT 1 FROM {s}.final WHERE seq >= $1 AND seq < $2 AND at >= $3)`),
		dayCount:     in(`SELECT count(*) FROM {s}.notification WHERE seq >= $1 AND seq < $2`),
		dayIDs:       in(`DELETE FROM {s}.given_id WHERE seq >= $1 AND seq < $2`),
		scanState:    in(`SELECT key, value FROM {s}.mqtt_state WHERE key >= $1 AND ($2::bytea IS NULL OR key < $2) ORDER BY key`),
		putState: in(`
			INSERT INTO {s}.mqtt_state (key, value)
			VALUES ($1, $2)
			ON CONFLICT (key) DO UPDATE
			SET value = excluded.value`),
		removeState: in(`DELETE FROM {s}.mqtt_state WHERE key = $1`),
		removeLongStates: in(`
			DELETE FROM {s}.mqtt_state
			WHERE key >= $1 AND ($2::bytea IS NULL OR key < $2)
			AND substring(value FROM 1 FOR 4) >= $3 AND substring(value FROM 5 FOR length($4::bytea)) = $4`),
		removeStates: in(`DELETE FROM {s}.mqtt_state WHERE key >= $1 AND ($2::bytea IS NULL OR key < $2)`),
	}
}
