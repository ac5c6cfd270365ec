"""The four cases of transfer learning, each a plugin found as a third party's would be."""
