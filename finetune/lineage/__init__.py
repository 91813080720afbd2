"""The line of networks from LeNet-5 to ConvNeXt V2, under one protocol."""
