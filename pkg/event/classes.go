package event

// Classes are the classes of resources that HMCs are known to have, by IBM's book on the Web
// Services API, those first that matter most. There may be others.
var Classes = []string{
	"cpc", "partition", "logical-partition", "adapter", "console", "user", "hardware-message",
	"nic", "hba", "virtual-function", "virtual-switch", "partition-link", "capacity-group", "capacity-record",
	"network-port", "storage-port", "storage-group", "storage-volume", "storage-template", "storage-template-volume",
	"virtual-storage-resource", "storage-site", "storage-fabric", "storage-switch", "storage-subsystem",
	"storage-control-unit", "storage-path", "tape-library", "tape-link", "virtual-tape-resource",
	"reset-activation-profile", "image-activation-profile", "load-activation-profile", "group-profile",
	"user-role", "user-pattern", "user-template", "password-rule", "task", "ldap-server-definition",
	"mfa-server-definition", "certificate", "group", "metrics-context", "unmanaged-cpc", "virtual-network",
	"zbx", "blade",
	"workload-resource-group", "virtual-server", "virtualization-host", "ensemble", "node",
}

// LinkStatuses are the values of physical-channel-status that adapters and their ports are known to
// have: golang-zhmcclient, model.go, has them. There may be others.
var LinkStatuses = []string{
	"operating", "initializing", "test-mode", "wrap-block", "service", "stopped", "suspended", "not-defined",
	"no-power", "check-stopped", "permanent-error", "loss-of-signal", "loss-of-synchronization",
	"not-operational-link", "offline-signal-received", "sequence-time-out", "sequence-not-permitted",
	"terminal-condition", "fabric-login-sequence-failure", "post-login-sequence-failure",
	"state-change-registration-failure", "invalid-attachment-failure", "bit-error-threshold-exceeded",
	"ifcc-threshold-exceeded", "io-supressed", //nolint:misspell // as that source has it
}

// Statuses are the statuses that the resources of a class are known to have, the good ones first:
// docs/severity.md has them with their meaning and its source. There may be others.
var Statuses = map[string][]string{
	"cpc": {
		"active", "operating", "acceptable", "exceptions", "degraded", "service", "service-required",
		"not-operating", "no-power", "not-communicating", "status-check",
	},
	"logical-partition": {"operating", "not-activated", "exceptions", "not-operating", "status-check"},
	"partition": {
		"active", "starting", "stopping", "stopped", "paused", "degraded", "terminated",
		"reservation-error", "communications-not-active", "status-check",
	},
	"adapter": {"active", "not-active", "not-detected", "exceptions"},
	"storage-group": {
		"complete", "pending", "pending-with-mismatches", "checking-migration", "incomplete",
	},
}
