"""What an answer is: the protocol that every task fulfils, ours and a third party's."""
