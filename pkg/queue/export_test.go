package queue

// For the tests of stores of other packages.
var UnpackOld = unpackOld
