"""The exercises of the chapters, one file each: chNN.EXERCISES, number → contract and hints."""
