package hmcsim

// job is an asynchronous operation of a session.
type job struct {
	session *session
}
