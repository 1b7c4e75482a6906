package queue

// TestStore is for the tests of stores of other packages.
var TestStore = testStore
