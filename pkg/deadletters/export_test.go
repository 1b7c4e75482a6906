package deadletters

// TestLetters is for the tests of those of other packages.
var TestLetters = testLetters
