// Package capture writes down what an HMC says (requests and answers of the Web Services API,
// frames of the link, their times), in a file that people can read, and in which nothing tells
// whose HMC it was: every word that is not one of the API's own is replaced, the same one always
// by the same.
package capture
