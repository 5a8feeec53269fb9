package Resque::Plugin::Qudo::Text;

# A job's JSON as text. What is tried again keeps the very bytes of its arguments: Perl's JSON would write other ones
# (0.30000000000000004 as 0.3), and every try would change the job a little more. Pure.

use strict;
use warnings;

use Exporter 'import';
use JSON;

our @EXPORT_OK = qw(members member next_try postponed record);

my $JSON = JSON->new->utf8->canonical->allow_nonref;

# The members of an object, in order: [name, the value's text]. Undef for what is no object.
sub members {
    my ($text) = @_;
    return if !defined $text || $text !~ /\G\s*\{/gc;
    my @members;
    while ($text !~ /\G[\s,]*\}/gc) {
        $text =~ /\G[\s,]*/gc;
        my $name = _value(\$text);
        return if $text !~ /\G\s*:\s*/gc;
        my $value = _value(\$text);
        return if !defined $name || !defined $value;
        push @members, [ $JSON->decode($name), $value ];
    }
    return \@members;
}

# The text of one member, the last one of that name as in every reader; undef when there is none.
sub member {
    my ($text, $name) = @_;
    my ($found) = grep { $_->[0] eq $name } reverse @{ members($text) || [] };
    return $found ? $found->[1] : undef;
}

# From pos() on; a loop, not one pattern, whose quantifiers end at 65,535.
sub _value {
    my ($text) = @_;
    my $from   = pos $$text;
    my $depth  = 0;
    do {
        if ($$text =~ /\G"/gc) {
            1 while $$text =~ /\G(?:[^"\\]+|\\.)/gcs;
            return if $$text !~ /\G"/gc;
        }
        elsif ($$text =~ /\G[\[\{]/gc) { $depth++ }
        elsif ($$text =~ /\G[\]\}]/gc) { $depth-- }
        else {
            my $more = $depth ? $$text =~ /\G[^"\[\]{}]+/gc : $$text =~ /\G[^\s,"\[\]{}]+/gc;
            return if !$more;
        }
    } while ($depth > 0);
    return substr $$text, $from, pos($$text) - $from;
}

# The texts of a job's next try, for its queue and for the delayed layout, with the keys that `qudo-migrate work` and
# Resque::Plugin::Retry count by.
sub next_try {
    my ($text, $queue, $retries, $max_retries) = @_;
    my @counts = ([ retry_count => $retries + 1 ], [ max_retry => $max_retries + 0 ]);
    return _texts($text, $queue, @counts);
}

# The same for a job that came before its start_time: nothing is counted.
sub postponed {
    my ($text, $queue) = @_;
    return _texts($text, $queue);
}

sub _texts {
    my ($text, $queue, @more) = @_;
    my %replaced = map { $_->[0] => 1 } @more, ['start_time'], ['queue'];
    my @kept  = grep { !$replaced{ $_->[0] } } @{ members($text) };
    my ($class) = grep { $_->[0] eq 'class' } reverse @kept;
    my ($args)  = grep { $_->[0] eq 'args' } reverse @kept;
    my @core    = ($class, $args || [ args => '[]' ]);
    my @extra = grep { $_->[0] ne 'class' && $_->[0] ne 'args' } @kept;
    push @extra, map { [ $_->[0], $JSON->encode($_->[1]) ] } @more;
    # resque-scheduler's order of keys, which `qudo-migrate` writes for Perl, too.
    return (_object(@core, @extra), _object(@core, [ queue => $JSON->encode($queue) ], @extra));
}

# The text of an object whose values are given, but for `payload`, whose text is.
sub record {
    my ($values, $payload) = @_;
    return _object((map { [ $_, $JSON->encode($values->{$_}) ] } sort keys %$values), [ payload => $payload ]);
}

sub _object {
    my @members = @_;
    return '{' . join(',', map { $JSON->encode($_->[0]) . ':' . $_->[1] } @members) . '}';
}

1;
