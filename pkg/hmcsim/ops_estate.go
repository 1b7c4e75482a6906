package hmcsim

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"unicode/utf8"
)

func listCPCs(r *request) reply {
	f, bad := r.filter("name", hasUnacceptable, "additional-properties")
	if bad != nil {
		return *bad
	}
	list := []any{}
	for _, c := range r.h.world.cpcs {
		if !f.match("name", c.name) || !f.is(hasUnacceptable, unacceptable(c, c.status)) {
			continue
		}
		all := c.properties()
		entry := map[string]any{}
		names := []string{"object-uri", "name", "status", "has-unacceptable-status", "dpm-enabled", "se-version"}
		for _, name := range append(names, f.more...) {
			if value, ok := all[name]; ok {
				entry[name] = value
			}
		}
		list = append(list, entry)
	}
	return ok(map[string]any{"cpcs": list})
}

func (r *request) cpc() *cpc {
	for _, c := range r.h.world.cpcs {
		if c.id == r.ids[0] {
			return c
		}
	}
	return nil
}

func getCPC(r *request) reply {
	c := r.cpc()
	if c == nil {
		return r.notFound()
	}
	return r.pick(c.properties(), "cached-acceptable", "group-uri")
}

func updateCPC(r *request) reply {
	c := r.cpc()
	if c == nil {
		return r.notFound()
	}
	return r.update(c, func(name string, value any) (old any, set func()) {
		if text, ok := value.(string); ok && name == "description" {
			return c.description, func() { c.description = text }
		}
		return acceptableOf(name, value, &c.accepted)
	})
}

// listed is one entry of a list of partitions.
func (p *partition) listed(permitted bool, f *filter) map[string]any {
	entry := map[string]any{"object-uri": p.uri(), "name": p.name, "status": p.status}
	if p.cpc.dpm {
		entry["type"] = p.kind()
	}
	if permitted {
		entry["cpc-name"] = p.cpc.name
		entry["cpc-object-uri"] = p.cpc.uri()
		entry["se-version"] = p.cpc.seVersion
		entry["has-unacceptable-status"] = unacceptable(p, p.status)
		if !p.cpc.dpm {
			entry["activation-mode"] = p.kind()
		}
	}
	if len(f.more) > 0 {
		all := p.properties()
		for _, name := range f.more {
			if value, ok := all[name]; ok {
				entry[name] = value
			}
		}
	}
	return entry
}

// listOfCPC lists the partitions of a CPC. The list of the other kind is empty.
func listOfCPC(dpm bool) func(*request) reply {
	return func(r *request) reply {
		c := r.cpc()
		if c == nil {
			return r.notFound()
		}
		return r.listPartitions(c.partitions, dpm, false)
	}
}

// listPermitted lists the partitions of all CPCs.
func listPermitted(dpm bool) func(*request) reply {
	return func(r *request) reply { return r.listPartitions(r.h.world.parts, dpm, true) }
}

func (r *request) listPartitions(parts []*partition, dpm, permitted bool) reply {
	kind := map[bool]string{true: "type", false: "activation-mode"}[dpm]
	known := []string{"name"}
	switch {
	case permitted:
		known = append(known, "status", kind, "cpc-name", hasUnacceptable, "additional-properties")
	case dpm:
		known = append(known, "status", kind, "additional-properties")
	}
	f, bad := r.filter(known...)
	if bad != nil {
		return *bad
	}
	list := []any{}
	for _, p := range parts {
		if p.cpc.dpm == dpm && f.match("name", p.name) && f.match("cpc-name", p.cpc.name) &&
			f.match("status", p.status) && f.is(hasUnacceptable, unacceptable(p, p.status)) &&
			f.match(kind, p.kind()) {
			list = append(list, p.listed(permitted, &f))
		}
	}
	key := "logical-partitions"
	if dpm {
		key = "partitions"
	}
	return ok(map[string]any{key: list})
}

// partition returns the partition that a request names, or nil.
func (r *request) partition() *partition {
	p := r.h.world.byID[r.ids[0]]
	if p == nil || p.cpc.dpm != (r.op.path[1] == "partitions") {
		return nil
	}
	return p
}

func getPartition(r *request) reply {
	p := r.partition()
	if p == nil {
		return r.notFound()
	}
	if p.cpc.dpm {
		return r.pick(p.properties())
	}
	return r.pick(p.properties(), "cached-acceptable", "group-uri")
}

// settable finds a partition's property that can be changed to a value.
func (p *partition) settable(name string, value any) (old any, set func()) {
	text, isText := value.(string)
	num, isNum := value.(float64)
	n := int(num)
	isNum = isNum && num == float64(n) && n >= 0
	switch {
	// Both are read-only for an LPAR.
	case name == "name" && isText && p.cpc.dpm && text != "" && utf8.RuneCountInString(text) <= 64:
		return p.name, func() { p.name = text }
	case name == "description" && isText && p.cpc.dpm:
		return p.description, func() { p.description = text }
	case name == "ifl-processors" && isNum && p.cpc.dpm:
		return p.ifl, func() { p.ifl = n }
	case name == "cp-processors" && isNum && p.cpc.dpm:
		return p.cp, func() { p.cp = n }
	case name == "initial-memory" && isNum && p.cpc.dpm, name == "maximum-memory" && isNum && p.cpc.dpm:
		return p.memory, func() { p.memory = n }
	default:
		return acceptableOf(name, value, &p.accepted)
	}
}

// hasUnacceptable is a filter of lists.
const hasUnacceptable = "has-unacceptable-status"

// acceptableOf finds acceptable-status, which operators may change.
func acceptableOf(name string, value any, accepted *[]string) (old any, set func()) {
	list, isList := value.([]any)
	if name != "acceptable-status" || !isList {
		return nil, nil
	}
	statuses := make([]string, 0, len(list))
	for _, one := range list {
		text, isText := one.(string)
		if !isText {
			return nil, nil
		}
		statuses = append(statuses, text)
	}
	return *accepted, func() { *accepted = statuses }
}

func updatePartition(r *request) reply {
	p := r.partition()
	if p == nil {
		return r.notFound()
	}
	return r.update(p, p.settable)
}

// update changes properties of an object and tells of those that were other before, in one
// notification, before the request is answered.
func (r *request) update(o object, settable func(name string, value any) (old any, set func())) reply {
	if r.fields == nil {
		return r.fail(http.StatusBadRequest, 3, "The request body is missing.")
	}
	var (
		changes []change
		sets    []func()
	)
	for _, name := range sortedKeys(r.fields) {
		value := r.fields[name]
		old, set := settable(name, value)
		if set == nil {
			return r.fail(
				http.StatusBadRequest, 6, "The field '"+name+"' is not recognized, or its value is not valid.",
			)
		}
		if n, ok := old.(int); ok && float64(n) == value || reflect.DeepEqual(old, value) {
			continue
		}
		changes, sets = append(changes, change{name, old, value}), append(sets, set)
	}
	judged, hasStatus := o.(statusObject)
	was := hasStatus && unacceptable(judged, statusOf(o))
	for _, set := range sets {
		set()
	}
	if len(changes) > 0 {
		r.h.world.tell(propertyChange(o, "", changes...))
	}
	if is := hasStatus && unacceptable(judged, statusOf(o)); is != was {
		r.h.world.tell(judgementChange(judged, is))
	}
	return noContent()
}

// statusOf is the status of an object that can be updated.
func statusOf(o object) string {
	switch o := o.(type) {
	case *cpc:
		return o.status
	case *partition:
		return o.status
	}
	return ""
}

func createPartition(r *request) reply {
	c := r.cpc()
	if c == nil {
		return r.notFound()
	}
	name, isText := r.fields["name"].(string)
	switch {
	case !c.dpm:
		return r.fail(http.StatusConflict, 5, "The CPC is not in DPM mode.")
	case c.cutOff:
		return r.fail(http.StatusConflict, 1, "The operation cannot be performed because the CPC is in the state "+
			c.status+".")
	case r.fields == nil:
		return r.fail(http.StatusBadRequest, 3, "The request body is missing.")
	case !isText || name == "" || r.fields["initial-memory"] == nil || r.fields["maximum-memory"] == nil:
		return r.fail(http.StatusBadRequest, 5, "A required field is missing: "+
			"name, initial-memory and maximum-memory are required.")
	}
	for _, p := range c.partitions {
		if p.name == name {
			return r.fail(http.StatusBadRequest, 8, "The name is not unique.")
		}
	}
	p := r.h.world.newPartition(c, name)
	r.h.world.tell(inventoryChange(p, "", "add"))
	return reply{status: http.StatusCreated, body: map[string]any{"object-uri": p.uri()}}
}

func deletePartition(r *request) reply {
	p, no := r.operable()
	switch {
	case no != nil:
		return *no
	case p.status != statusStopped:
		return r.conflict(p)
	}
	r.h.world.deletePartition(p)
	return noContent()
}

func (w *world) deletePartition(p *partition) {
	w.removePartition(p)
	w.tell(inventoryChange(p, "", "remove"))
}

func getNIC(r *request) reply {
	p := r.partition()
	if p == nil {
		return r.notFound()
	}
	for _, n := range p.nics {
		if n.id == r.ids[1] {
			return r.pick(map[string]any{
				"class": "nic", "element-id": n.id, "element-uri": p.nicURI(n), "parent": p.uri(), "name": n.name,
				"description": n.description,
			})
		}
	}
	return r.notFound()
}

// operated writes into the audit log that a user does something to a partition; "": nobody is known
// to. What a real HMC writes is not public: the id of the entry and its words are this one's own.
func (h *HMC) operated(user, operation string, p *partition) {
	if user == "" {
		return
	}
	h.logLocked(TopicAudit, h.newLogEntry(LogEntry{
		EventID: "9999", User: user, Items: []string{operation, p.name, p.cpc.name, user},
		Message: "{0} was performed on {1} of {2} by user {3}",
	}))
}

// asJob runs an operation of a partition as a job of the session. A canceled one still comes to its
// end here, which HMCs allow for.
func (r *request) asJob(operation string, run func(p *partition, done func())) reply {
	p, h := r.partition(), r.h
	j := h.newJobLocked(r.session)
	j.cancel = r.op.name == "start-partition"
	h.operated(r.session.user, operation, p)
	run(p, func() {
		if p.deleted {
			h.endJobLocked(
				j,
				JobResult{http.StatusNotFound, 1, map[string]any{"message": "The object does not exist any more."}},
			)
			return
		}
		h.endJobLocked(j, JobResult{Results: map[string]any{}})
	})
	return accepted(j)
}

// wrongStatus is an operation whose job ends at once, because the status of the LPAR does not allow
// for it; for some it may be forced.
func (r *request) wrongStatus(p *partition) reply {
	j := r.h.newJobLocked(r.session)
	r.h.world.after(r.h.opts.StepDelay, func() {
		r.h.endJobLocked(j, JobResult{http.StatusInternalServerError, 263, map[string]any{
			"message": "The operation failed or was rejected due to the status of the logical partition: " + p.status,
		}})
	})
	return accepted(j)
}

// operable returns the partition that an operation is for, unless it cannot be operated at all now.
func (r *request) operable() (*partition, *reply) {
	p := r.partition()
	var rep reply
	switch {
	case p == nil:
		rep = r.notFound()
	case p.busy:
		rep = r.conflict(p)
	case p.cpc.cutOff:
		rep = r.fail(http.StatusConflict, 6, "The operation cannot be performed because the CPC that hosts "+
			"the object is in the state "+p.cpc.status+".")
	default:
		return p, nil
	}
	return nil, &rep
}

func (r *request) forced() bool { return r.fields["force"] == true }

func startPartition(r *request) reply {
	switch p, no := r.operable(); {
	case no != nil:
		return *no
	case p.status != statusStopped:
		return r.conflict(p)
	}
	return r.asJob("Start Partition", r.h.world.startUp)
}

func stopPartition(r *request) reply {
	switch p, no := r.operable(); {
	case no != nil:
		return *no
	case !p.hasOS() && p.status != statusTerminated:
		return r.conflict(p)
	}
	return r.asJob("Stop Partition", func(p *partition, done func()) {
		r.h.world.shutDown(p, statusStopped, done)
	})
}

func activateLPAR(r *request) reply {
	p, no := r.operable()
	switch {
	case no != nil:
		return *no
	case p.hasOS() && !r.forced():
		return r.wrongStatus(p)
	}
	return r.asJob("Activate Logical Partition", r.resets(statusNotOperating))
}

func deactivateLPAR(r *request) reply {
	p, no := r.operable()
	switch {
	case no != nil:
		return *no
	case p.status == statusNotActivated, p.hasOS() && !r.forced():
		return r.wrongStatus(p)
	}
	return r.asJob("Deactivate Logical Partition", r.resets(statusNotActivated))
}

// resets returns what takes away what is loaded. The operating system is not asked.
func (r *request) resets(to string) func(p *partition, done func()) {
	return func(p *partition, done func()) {
		r.h.world.steps(p, done, func() {}, func() { r.h.world.reset(p, to) })
	}
}

func loadLPAR(r *request) reply {
	p, no := r.operable()
	switch {
	case no != nil:
		return *no
	case p.status == statusNotActivated:
		return r.fail(http.StatusConflict, 0, "The LPAR could not be loaded because it is in the state "+p.status+".")
	case p.hasOS() && !r.forced():
		return r.wrongStatus(p)
	}
	return r.asJob("Load Logical Partition", func(p *partition, done func()) {
		if p.hasOS() { // forced: what runs is gone
			r.h.world.setStatus(p, statusNotOperating)
		}
		r.h.world.startUp(p, done)
	})
}

// stopLPAR stops the processors: the operating system stands still, and knows nothing of it.
func stopLPAR(r *request) reply {
	switch p, no := r.operable(); {
	case no != nil:
		return *no
	case !p.hasOS():
		return r.conflict(p)
	}
	return r.asJob("Stop Logical Partition", func(p *partition, done func()) {
		r.h.world.steps(p, done, func() {}, func() {
			p.halted, p.psws = true, p.everyProcessor("0704C0018000000000000000%08X", 0x1FF3A2)
			r.h.world.setStatus(p, statusNotOperating)
		})
	})
}

// startLPAR lets the processors go on where they were stopped. Nothing is loaded.
func startLPAR(r *request) reply {
	switch p, no := r.operable(); {
	case no != nil:
		return *no
	case !p.halted && !p.hasOS():
		return r.conflict(p)
	}
	return r.asJob("Start Logical Partition", func(p *partition, done func()) {
		r.h.world.steps(p, done, func() {}, func() {
			p.halted, p.psws = false, nil
			r.h.world.setStatus(p, statusOperating)
		})
	})
}

func resetLPAR(operation string) func(*request) reply {
	return func(r *request) reply {
		p, no := r.operable()
		switch {
		case no != nil:
			return *no
		case p.status == statusNotActivated:
			return r.conflict(p)
		case p.hasOS() && !r.forced():
			return r.wrongStatus(p)
		}
		return r.asJob(operation, r.resets(statusNotOperating))
	}
}

func openOSMessageChannel(r *request) reply {
	refresh := true
	for name, value := range r.fields {
		v, isBool := value.(bool)
		switch {
		case name != "include-refresh-messages":
			return r.fail(http.StatusBadRequest, 6, "The field '"+name+"' is not recognized.")
		case !isBool:
			return r.fail(http.StatusBadRequest, 7, "The field '"+name+"' is not of the type Boolean.")
		}
		refresh = v
	}
	p := r.partition()
	switch {
	case p == nil:
		return r.notFound()
	case r.session.channels[p] != nil:
		return r.fail(
			http.StatusConflict, 331, "This API session has opened a message channel for this object already.",
		)
	case !p.hasOS():
		return r.fail(http.StatusConflict, 332, "The messages interface of the operating system is not available.")
	}
	t := r.h.addTopicLocked(r.session, TopicOSMessage, "osm."+strings.ReplaceAll(p.id, "-", ""))
	t.partition, t.refresh = p, refresh
	r.session.channels[p] = t
	return ok(map[string]any{"topic-name": t.name})
}

// rawObject is a JSON object that is encoded already.
type rawObject []byte

// MarshalJSON returns the object as it is.
func (o rawObject) MarshalJSON() ([]byte, error) { return o, nil }

func listOSMessages(r *request) reply {
	p := r.partition()
	switch {
	case p == nil:
		return r.notFound()
	case !p.hasOS():
		return r.fail(http.StatusConflict, 332, "The messages interface of the operating system is not available.")
	}
	begin, ok1 := queryInt(r.query, "begin-sequence-number", 0)
	end, ok2 := queryInt(r.query, "end-sequence-number", 1<<62)
	limit, ok3 := queryInt(r.query, "max-messages", 1<<31)
	if !ok1 || !ok2 || !ok3 || limit <= 0 {
		return r.fail(http.StatusBadRequest, 14, "A query parameter is not valid.")
	}
	offset := r.h.opts.OSMessageOffset
	is := func(name string, value bool) bool {
		return !r.query.Has(name) || strings.EqualFold(r.query.Get(name), "true") == value
	}
	b := []byte(`{"os-messages":[`)
	for i := range p.messages {
		m := &p.messages[i]
		if m.seq+offset < begin || m.seq+offset > end || !is("is-held", m.held) || !is("is-priority", m.priority) {
			continue
		}
		if limit--; limit < 0 {
			break
		}
		if b[len(b)-1] != '[' {
			b = append(b, ',')
		}
		b = m.appendJSON(b, p, offset, nil)
	}
	return ok(rawObject(append(b, `]}`...)))
}

func deleteOSMessage(r *request) reply {
	p := r.partition()
	if p == nil {
		return r.notFound()
	}
	seq, isNum := r.fields["sequence-number"].(float64)
	if !isNum {
		return r.fail(http.StatusBadRequest, 5, "A required field is missing: sequence-number is required.")
	}
	if !p.forget(int64(seq) - r.h.opts.OSMessageOffset) {
		return r.notFound()
	}
	return noContent()
}

// sendOSCommand passes a command on to the operating system. Its echo is a message of its own.
func sendOSCommand(r *request) reply {
	p := r.partition()
	const field = "operating-system-command-text"
	text, isText := r.fields[field].(string)
	switch {
	case p == nil:
		return r.notFound()
	case !isText:
		return r.fail(http.StatusBadRequest, 5, "A required field is missing: "+field+" is required.")
	case text == "" || utf8.RuneCountInString(text) > 200:
		return r.fail(http.StatusBadRequest, 7, "The length of the field '"+field+"' is not supported.")
	case !p.hasOS():
		return r.fail(http.StatusConflict, 332, "The messages interface of the operating system is not available.")
	}
	w := r.h.world
	w.tellOS(p, text)
	answer := p.answer(text)
	w.after(w.opts.stepDelay, func() {
		if !p.deleted && p.hasOS() {
			w.tellOS(p, answer)
		}
	})
	return noContent()
}

// answer is what an operating system says to a command.
func (p *partition) answer(command string) string {
	if id, text, ok := replyOf(command); ok && p.answered(id) { // "R 07,U"
		return fmt.Sprintf("IEE600I REPLY TO %02d IS;%s", id, text)
	}
	if p.zos {
		return "IEE305I " + strings.ToUpper(command) + " COMMAND INVALID"
	}
	return "-bash: " + command + ": command not found\n"
}

// replyOf takes a command for the answer to a message: "R 07,U".
func replyOf(command string) (id int, text string, ok bool) {
	head, text, ok := strings.Cut(command, ",")
	n, err := fmt.Sscanf(strings.ToUpper(head), "R %d", &id)
	return id, text, ok && n == 1 && err == nil
}
