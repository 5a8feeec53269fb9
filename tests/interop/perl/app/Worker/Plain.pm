package Worker::Plain;
use strict;
use warnings;
use Shop;

# Resque's own way.
sub perform { my ($job) = @_; note(plain => @{ $job->args }); die "as Resque has it\n" if $job->args->[0] eq 'dies' }

1;
