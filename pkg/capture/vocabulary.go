package capture

import "strings"

func set(lists ...string) map[string]bool {
	all := make(map[string]bool)
	for _, list := range lists {
		for word := range strings.FieldsSeq(list) {
			all[word] = true
		}
	}
	return all
}

// properties are names that the Web Services API gives to what it tells: members of its JSON,
// names of properties, parameters of queries. A name that is not here is replaced, as it may be
// somebody's own.
var properties = set(`
	acceptable-status activation-mode additional-properties additional-status adapter-family adapter-id adapters
	api-features api-major-version api-minor-version api-session begin-sequence-number begin-time body
	cached-acceptable capacity-group card-location change-reports class cp-processors cpc-name cpc-object-uri cpc-uri
	cpcid cpcs cpid customer-name customer-phone data-item-number data-item-type data-item-value description details
	detected-card-type dpm-enabled element-id element-uri end-sequence-number end-time error-details
	event-data-items event-details event-id event-message event-name event-time fulfillment-state
	global-sequence-nr group-uri hardware-messages has-hardware-messages has-operating-system-messages
	has-unacceptable-status hba-uris hmc-name hmc-version http-status id ifl-processors include-refresh-messages
	initial-memory is-ensemble-member is-held is-locked is-priority is-refresh job-notification-topic job-reason-code
	job-results job-status-code job-uri last-used-load-address last-used-load-parameter log-entries
	logical-partitions machine-model machine-serial machine-serial-number machine-type max-messages maximum-memory
	message message-id message-text method name new-additional-status new-status new-value next-activation-profile-name
	nic-uris notification-topic number-general-purpose-cores number-ifl-cores object-id object-uri
	old-additional-status old-status old-value os-ipl-token os-level os-messages os-name os-type os-version parent
	partition-number partitions password password-expires physical-channel-status port-count
	program-status-word-information prompt-text properties property-name psw reason request-body
	request-headers request-method request-uri requests se-version sequence-number service-supported
	session-credential session-sequence-nr sound-alarm stack-trace state status storage-group-uris storage-groups
	sysplex-name text threads timestamp topic-name topic-type topics type uri user-uri userid
	virtual-function-uris virtual-switches
	initial-memory maximum-memory reserved-memory processor-mode short-name threads-per-processor
	power-consumption temperature cp-cpu-usage is-cpc-power-on`)

// uriWords are the parts of the paths of the Web Services API that name no object.
var uriWords = set(`
	api version sessions this-session operations get-notification-topics console cpcs logical-partitions partitions
	list-permitted-logical-partitions list-permitted-partitions list-permitted-adapters open-os-message-channel
	list-os-messages get-audit-log get-security-log hardware-messages jobs services aggregation submit users nics
	adapters storage-groups storage-volumes storage-ports network-ports virtual-functions virtual-switches hbas
	capacity-groups user-roles user-patterns password-rules groups custom-groups`)

// wordsOfIBM are properties whose strings are words of a list in IBM's documentation.
var wordsOfIBM = set(`
	acceptable-status action activation-mode adapter-family additional-status api-features class data-item-type
	fulfillment-state new-additional-status new-status notification-type old-additional-status old-status
	physical-channel-status processor-mode state status topic-type type detected-card-type`)

// codes are properties whose strings are numbers or versions.
var codes = set(`
	data-item-number event-id id message-id se-version hmc-version version expires priority timestamp
	session-sequence-nr global-sequence-nr heart-beat begin-time end-time begin-sequence-number end-sequence-number
	max-messages sequence-number machine-type`)

// nameProperties are properties that hold names, besides those that end in "name".
var nameProperties = set(`userid user partition-number machine-serial machine-serial-number
	machine-model notification-topic job-notification-topic short-name`)

// proseProperties hold sentences. What is said in them by the words of prose is kept, unless
// somebody has given such a name.
var proseProperties = set(`event-message data-item-value message`)

// prose are words of the HMC's own sentences: those that a status change is explained by
// (docs/rules), and those of ActiveMQ's refusals.
var prose = set(`
	activate activated activating deactivate deactivated deactivating reset clear normal load loaded scsi nvme start
	started starting stop stopped stopping profile profiles code engineering template pattern password certificate
	session log logged off on to the from has user partition logical not a an is was by for of and or invalid
	name known approved topic because specified destination remote failed`)

// frameHeaders are the names of headers of frames.
var frameHeaders = set(`
	action class content-type correlation-id destination element-id element-uri expires global-sequence-nr heart-beat
	job-uri message message-id name notification-type object-id object-uri priority property-names redelivered
	server session session-sequence-nr timestamp type version persistent receipt-id`)

// isSecretName says whether a member holds a secret, by its name.
func isSecretName(name string) bool {
	name = strings.ToLower(name)
	for _, part := range []string{
		"password", "passcode", "passphrase", "secret", "credential", "session-key", "private", "api-session",
		"authentication-code", "token", "authorization", "cookie",
	} {
		if strings.Contains(name, part) {
			return name != "password-expires" && name != "os-ipl-token"
		}
	}
	return false
}
