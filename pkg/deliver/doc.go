// Package deliver brings the stored events to one sink at the sink's own pace: it filters, keeps the order, sends, tries
// again, and puts aside what is refused for good.
package deliver
