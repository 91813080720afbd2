"""Labels of samples: reading them, what a head is trained for, what it is measured by."""
