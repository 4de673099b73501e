"""What an answer is: numbers with units, names, lists, words, in one spelling."""
