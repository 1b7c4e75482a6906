// Package console knows which messages that operating systems wrote to their consoles were
// recorded, and which are missing. Its OSMessages is a book of the ledger, as pure as the others
// there, and has a room of its own because an HMC numbers these messages anew without telling.
package console
