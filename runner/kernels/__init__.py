"""Operations that have a form of their own on some device, and the plain forms that tests compare them with.
`choice.py` says which form a device has.
"""
